"""What a config of torchtune is made of beside its numbers."""
