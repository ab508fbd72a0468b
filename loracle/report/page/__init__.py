"""The report as one page that needs nothing else: `report.html`, drawn from `findings`."""
