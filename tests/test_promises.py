"""Every promise of the README, with the tests that break when it is broken.

Each statement of the README (a sentence, or a row of a table) holds the beginning of a promise below, or of a
statement that promises nothing. So a new sentence needs a test, and a test that is renamed or removed is
missed here.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from places import ROOT, TESTS

from loracle.config.settings import DataConfig

README = (ROOT / "README.md").read_text(encoding="utf-8")

# Part of a statement: tests, as file::function.
PROMISES: dict[str, tuple[str, ...]] = {
    "The score is one of some fifteen metrics": (
        "test_several_metrics::test_all_that_are_named_are_recorded_and_one_is_the_value",
        "test_several_metrics::test_intervals_of_any_metric_cover_the_truth",
        "test_several_metrics::test_a_run_records_all_and_its_report_reads_right",
        "test_own_metric::test_what_it_gives_an_item_has_an_interval_and_a_name",
        "test_harness::test_base_and_tuned_model_score_as_by_hand_and_random_states_stay",
        "test_code::test_a_program_passes_where_it_comes_to_its_end_within_its_limits",
        "test_endpoint::test_a_run_is_judged_and_its_key_stands_nowhere",
        "test_mathematics::test_answers_are_compared_as_mathematics",
        "test_metrics::test_packages_bring_metrics_by_entry_points",
    ),
    "Other commands: `loracle watch RUN` follows": (
        "test_watch::test_what_is_told_in_a_run_is_what_watch_shows",
        "test_watch::test_a_run_is_followed_while_it_goes_on_and_said_to_be_gone_when_it_is_killed",
        "test_loaded_run::test_a_run_is_read_as_tables_and_says_what_its_commands_say",
    ),
    "The documentation, from a [tutorial]": (
        "test_docs::test_the_tutorial_runs_from_its_first_block_to_its_last",
        "test_docs::test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere",
    ),
    "the search ends before it costs more than one full training, in tokens, here after 0.9": (
        "test_costs_measured::test_the_demo_takes_a_quarter_of_the_tokens_and_finds_as_good_a_winner",
        "test_default_budget::test_a_search_that_says_nothing_costs_less_than_a_training_and_says_so",
    ),
    "With `search.preset: thorough`, 30 trials, it costs 5.1": (
        "test_costs_measured::test_the_demo_takes_a_quarter_of_the_tokens_and_finds_as_good_a_winner",
    ),
    "The whole report is one page, `report.html`": (
        "test_browser::test_it_opens_without_fault_asks_for_nothing_and_fits",
        "test_page::test_a_page_is_one_well_formed_file_that_asks_for_nothing",
    ),
    "![the beginning of report.html": ("test_browser::test_pictures_of_a_report_are_small_and_whole",),
    "What you know already, `beliefs` tells the search in words": (
        "test_runs_with_beliefs::test_a_run_says_what_its_beliefs_did",
    ),
    "It moves the first trials and is corrected by their scores": (
        "test_user_beliefs::test_the_first_config_that_is_chosen_goes_by_it",
        "test_user_beliefs::test_right_or_wrong_ten_trials_find_what_is_good",
        "test_beliefs_measured::test_the_pages_quote_what_was_measured",
    ),
    # -- the start of the page
    "The same on a pretrained model and real text": (
        "test_real_model::test_a_file_that_is_not_the_published_one_is_refused",
        "test_real_model::test_a_registry_without_the_parts_is_one_line",
        "test_real_model::test_splits_share_no_prompt_and_every_answer_can_be_given",
    ),
    "On three tasks with 600 examples each": (
        "test_real_model::test_the_table_of_the_readme_is_what_was_measured",
    ),
    "Six of nine winners are better beyond noise": (
        "test_real_model::test_the_table_of_the_readme_is_what_was_measured",
    ),
    "| a word to its hyphens |": ("test_real_model::test_the_table_of_the_readme_is_what_was_measured",),
    "| a package's line to a record |": (
        "test_real_model::test_the_table_of_the_readme_is_what_was_measured",
    ),
    "| a package's line to its section |": (
        "test_real_model::test_the_table_of_the_readme_is_what_was_measured",
    ),
    "Finds good LoRA hyperparameters": (
        "test_tune::test_a_run_leaves_everything_a_user_needs",
        "test_cli::test_demo_beats_the_standard_settings_by_a_fifth",
    ),
    "its model of the score was trained on thousands of measured LoRA runs": (
        "test_prior::test_the_shipped_prior_says_what_it_learnt_from",
        "test_ensemble::test_the_prior_predicts_from_few_trials_where_it_is_right",
        "test_ensemble::test_a_wrong_prior_costs_little",
    ),
    "Each trial trains on a small part of the data": (
        "test_objective::test_sizes_and_attributes",
        "test_proxy::test_check_proxy_trains_each_config_once",
    ),
    "The language-guided search of": (
        "test_language_gp::test_the_paper_preset_starts_as_published",
        "test_language_gp::test_the_paper_preset_learns_at_the_published_rates",
        "test_trie::test_tree_equals_one_forward_a_text",
        "test_trie::test_no_token_is_computed_twice",
        "test_paper::test_settings_are_the_published_ones",
        "test_paper::test_doctor_passes_one_of_each_kind",
        "test_paper::test_one_of_each_kind_runs_from_end_to_end",
    ),
    "Runs are safe to interrupt": ("test_tune::test_kill_9_at_several_moments_changes_nothing",),
    # -- try it
    "No GPU and no downloads of models are needed": (
        "test_demo::test_config_names_the_shipped_files_and_few_enough_candidates",
        "test_demo::test_resources_are_small",
        "test_wheel::test_the_demo_runs_from_the_wheel",
    ),
    "It ends with the test score": ("test_cli::test_demo_beats_the_standard_settings_by_a_fifth",),
    # -- use it on your model
    "holds rows of": (
        "test_tokens::test_loss_counts_the_completion_and_its_end",
        "test_tokens::test_text_is_learnt_whole_but_for_its_first_token",
        "test_chat::test_every_assistant_turn_counts",
        "test_files::test_every_format_gives_the_same_examples",
    ),
    "Every row is trained whole": (
        "test_fuzz_data::test_every_row_is_whole_or_counted",
        "test_fuzz_data::test_any_fields_are_read_told_of_or_refused",
        "test_splits::test_rows_of_one_prompt_stay_on_one_side",
        "test_dataset_notices::test_rows_shared_with_train_are_told_with_counts",
        "test_dataset_notices::test_a_run_tells_of_its_data_where_the_user_looks",
    ),
    "A config needs little": ("test_readme::test_yaml_blocks_are_valid_configs",),
    "`loracle tune` shows every trial": (
        "test_display::test_plain_output_is_one_line_a_trial",
        "test_tune::test_ctrl_c_records_the_trial_and_the_run_continues_with_it",
        "test_tune::test_kill_9_at_several_moments_changes_nothing",
    ),
    "It goes on with what it began with": (
        "test_identity::test_changed_contents_are_refused_by_name_and_go_on_when_undone",
        "test_identity::test_a_changed_trainer_is_refused",
    ),
    "Those that change while it runs": (
        "test_changed_files::test_a_trainer_that_changes_while_a_run_goes_on_ends_it_and_goes_on_when_undone",
        "test_changed_files::test_whoever_loads_anew_knows_what_has_changed_by_name",
        "test_changed_files::test_a_worker_that_is_replaced_trains_nothing_on_other_files",
    ),
    "Until a trial counts nothing binds": (
        "test_identity::test_a_first_run_that_was_refused_locks_nothing",
        "test_identity::test_crashes_that_no_config_is_to_blame_for_bind_nothing_and_are_run_again",
    ),
    "What is missing or damaged of a finished run": (
        "test_run_folder::test_what_is_missing_or_damaged_is_made_again_and_nothing_else",
        "test_run_folder::test_files_of_trials_that_are_gone_are_told",
    ),
    "A folder that holds files but no run is refused": (
        "test_run_folder::test_a_demo_in_a_folder_with_files_is_refused_and_touches_nothing",
        "test_run_folder::test_a_run_in_a_folder_with_files_is_refused_and_touches_nothing",
    ),
    "When the search ends": (
        "test_tune::test_winner_and_standard_are_scored_on_the_same_test_items",
        "test_markdown::test_says_how_much_was_really_trained_and_scored_on",
    ),
    "A gain is claimed only where": (
        "test_verdict::test_a_gain_is_claimed_where_the_interval_excludes_zero",
        "test_verdict::test_no_gain_is_claimed_where_the_interval_holds_zero",
        "test_final_training::test_best_holds_the_standard_settings_where_they_are_better",
    ),
    "`loracle tune` ends with one sentence of verdict": (
        "test_verdict_command::test_tune_ends_with_the_sentence_and_0_and_verdict_repeats_all_of_it",
        "test_verdict_command::test_the_exit_code_says_what_the_sentence_says",
        "test_verdict_command::test_a_run_that_is_not_finished_is_one_line_and_code_2",
    ),
    "What must not be lost can be named": (
        "test_guarded_runs::test_the_winner_keeps_what_the_best_score_forgets_and_the_report_says_what_was_given_up",
        "test_guarded_runs::test_a_file_of_plain_text_is_watched_by_its_loss",
        "test_guarded_runs::test_a_guard_is_broken_beyond_noise_alone",
        "test_feasibility::test_a_search_goes_up_to_what_is_kept_and_recommends_nothing_beyond",
    ),
    "A winner that loses it in its final training": (
        "test_guarded_runs::test_a_winner_that_forgets_in_its_final_training_is_passed_over_however_often_the_run_is_killed",
        "test_guarded_runs::test_where_no_final_training_of_the_search_keeps_it_the_standard_settings_are_used",
        "test_guarded_runs::test_where_nothing_that_was_trained_on_all_data_keeps_it_the_verdict_says_so",
    ),
    "| `best/` |": (
        "test_final_training::test_best_is_complete_and_reads_as_the_hub_reads_it",
        "test_recipe::test_the_installed_libraries_read_it_back",
    ),
    "| `final/` |": (
        "test_final_training::test_an_adapter_of_a_final_training_that_is_gone_is_made_again",
        "test_finalists::test_the_best_on_all_data_is_the_winner_and_is_trained_once",
    ),
    "| `report.html` |": (
        "test_report_command::test_a_run_leaves_its_page_and_report_makes_it_again",
        "test_finding::test_a_finished_run_shows_everything",
        "test_page::test_a_page_is_one_well_formed_file_that_asks_for_nothing",
    ),
    "| `report.md`, `progress.png` |": (
        "test_tune::test_a_run_leaves_everything_a_user_needs",
        "test_markdown::test_says_what_was_found_and_how",
    ),
    "| `trials/0007/` |": ("test_objective::test_a_trial_writes_everything_that_explains_it",),
    "| `config.yaml`, `journal.log` |": (
        "test_tune::test_a_run_leaves_everything_a_user_needs",
        "test_study::test_optuna_alone_reads_the_journal",
    ),
    "| `verdict.json` |": ("test_verdict_command::test_what_is_kept_is_the_whole_record",),
    "| `notices.json` |": ("test_notices_shown::test_doctor_tune_report_show_and_json_say_the_same",),
    "`loracle explain RUN [TRIAL]` says": (
        "test_explanation::test_the_search_asked_again_gives_every_trial",
        "test_explanation::test_each_sentence_has_the_numbers_of_its_record",
        "test_explanation::test_conclusions_say_which_knobs_matter_and_the_next_experiment_is_the_next_proposal",
        "test_explanation::test_explain_prints_the_sentences_of_a_run_and_json_their_numbers",
    ),
    "`loracle compare RUN RUN ...` sets": (
        "test_compare_command::test_two_runs_of_the_same_rows_are_paired_and_others_say_why_not",
        "test_compare_command::test_of_many_pairs_each_has_to_be_told_more_clearly",
        "test_compare_command::test_a_permutation_test_is_a_sign_test_where_answers_are_right_or_wrong",
    ),
    "`loracle show RUN` lists trials": (
        "test_report_command::test_a_run_leaves_its_page_and_report_makes_it_again",
        "test_cli::test_tune_show_export",
        "test_cli::test_proxy",
        "test_export::test_copies_adapter_and_recipe",
        "test_trl::test_trl_parses_the_yaml_and_every_setting_arrives",
        "test_vllm::test_the_command_parses_and_finds_its_adapter",
        "test_other_trainers::test_axolotl_reads_its_config",
        "test_other_trainers::test_llama_factory_reads_its_settings_and_makes_our_tokens",
        "test_other_trainers::test_the_script_for_unsloth_calls_what_there_is",
        "test_torchtune::test_its_recipe_sees_our_batches_and_writes_an_adapter_that_peft_reads",
        "test_other_trainers::test_ollama_reads_the_modelfile",
        "test_merged::test_predictions_are_those_of_the_adapter",
        "test_import::test_axolotl",
        "test_import::test_llama_factory",
        "test_import::test_oumi_tune",
        "test_import::test_trl_with_data_beside_it",
        "test_import::test_micro_batch_and_accumulation_are_the_effective_batch_wherever_they_stand",
    ),
    "`--json` prints one JSON object": ("test_cli::test_tune_json_is_one_object",),
    # -- use the search alone
    "As an Optuna sampler": (
        "test_readme::test_python_blocks_run",
        "test_sampler::test_ten_lines_of_an_optuna_user",
    ),
    "Usual names are understood": (
        "test_spellings::test_usual_spellings_are_understood",
        "test_scripts::test_own_names",
        "test_scripts::test_two_knobs_give_thirty_different_trials",
        "test_suggestions::test_two_of_five_knobs_are_searched_and_no_others",
    ),
    "Its ranges are the space": (
        "test_scripts::test_float_ranges_are_searched_more_finely_than_a_grid",
        "test_scripts::test_ranges_beyond_any_grid",
    ),
    "Any other parameter is searched beside them": (
        "test_scripts::test_other_parameters_and_branches_are_searched_too",
        "test_suggestions::test_other_parameters_are_searched_by_numbers_with_a_warning_each_once",
    ),
    "Give a space of your own": (
        "test_suggestions::test_ranges_beside_the_grid_are_met_in_every_trial",
        "test_suggestions::test_a_range_beyond_the_grid_is_refused_before_anything_is_trained",
    ),
    "Several objectives, constraints, pruning": (
        "test_scripts::test_several_objectives_give_a_pareto_front",
        "test_scripts::test_constraints_are_kept_to",
        "test_scripts::test_pruning",
        "test_scripts::test_several_jobs",
        "test_scripts::test_storage_and_a_resumed_study",
    ),
    "Around a trainer of transformers or TRL": (
        "test_hf::test_each_trial_is_a_trainer_of_the_users_own",
        "test_hf::test_the_same_call_goes_on_where_it_was_stopped",
        "test_readme::test_examples_with_libraries_of_others_run",
        "test_trackers::test_tensorboard_holds_every_trial",
    ),
    "In your own loop": ("test_readme::test_python_blocks_run",),
    # -- runs that nothing breaks
    "Trials run in worker processes": (
        "test_local_workers::test_one_warm_worker_serves_trial_after_trial",
        "test_local_workers::test_crashed_and_lost_trials_are_run_once_more",
        "test_local_workers::test_a_worker_that_stands_still_is_replaced",
        "test_local_workers::test_a_worker_that_grows_is_replaced_without_a_failure",
    ),
    "Out of memory is tried again": (
        "test_objective::test_out_of_memory_is_tried_again_in_smaller_parts",
        "test_objective::test_a_real_shortage_gives_the_same_result",
        "test_optimizer::test_only_what_fits_into_memory_is_proposed",
    ),
    "The micro-batch never changes a training": (
        "test_dropout::test_losses_are_the_same_for_every_micro_batch",
        "test_dropout::test_recomputed_activations_have_the_same_masks",
    ),
    "Free memory changes no proposal": (
        "test_identity::test_free_memory_at_the_start_of_another_session_changes_no_proposal",
    ),
    "Ctrl-C, a closed terminal or kill -9": (
        "test_local_workers::test_no_process_outlives_its_driver",
        "test_local_workers::test_no_process_outlives_a_closed_terminal",
        "test_tune::test_kill_9_at_several_moments_changes_nothing",
    ),
    "Several machines and Ray": (
        "test_work::test_two_machines_give_the_history_of_one",
        "test_ray_cluster::test_failures_are_dealt_with_on_the_node_and_files_come_back",
    ),
    "Your own training script": ("test_own_trainer::test_what_the_page_shows_is_valid",),
    # -- how it works
    "Every combination of the knobs' values is a candidate": (
        "test_space::test_index_and_config_are_a_bijection",
    ),
    "Values may be names as well as numbers": (
        "test_named_knobs::test_a_search_finds_the_best_names",
        "test_named_settings::test_a_run_over_names_hands_the_winner_on",
        "test_names_of_own_trainers::test_a_command_gets_the_names_and_all_that_tells_of_the_run_has_them",
    ),
    "45,360 in the paper's space": (
        "test_space::test_paper_space_is_the_published_one",
        "test_space::test_default_space_leaves_out_what_is_dead_everywhere",
    ),
    "`loracle suggest MODEL` gives": (
        "test_suggest::test_a_folder_with_a_config_alone_is_enough",
        "test_suggest::test_alternatives_are_others_and_the_usual_settings_are_among_them",
        "test_suggest::test_the_command_says_what_to_start_with_and_what_it_rests_on",
        "test_suggest::test_no_torch_is_loaded_for_it",
        "test_optimizer::test_the_size_of_a_model_changes_what_is_tried",
        "test_sampler::test_the_sampler_knows_how_large_a_model_is",
    ),
    "Say how many parameters your model has": (
        "test_optimizer::test_the_size_of_a_model_changes_what_is_tried",
        "test_sampler::test_the_sampler_knows_how_large_a_model_is",
    ),
    "A feature map, a mean and kernel scales": (
        "test_prior::test_a_larger_model_moves_the_prior_to_lower_rates_and_nothing_else",
        "test_tune::test_a_run_knows_how_large_its_model_is_and_so_does_its_report",
        "test_promises::test_the_prior_is_as_small_as_it_says",
        "test_ensemble::test_before_any_trial_the_belief_is_the_prior",
    ),
    "Two Gaussian processes": (
        "test_ensemble::test_belief_is_the_textbook_mixture_of_the_members_posteriors",
    ),
    "Every trial shifts weight": ("test_ensemble::test_weights_follow_the_evidence",),
    "Failures teach too": ("test_optimizer::test_diverged_configs_are_learnt_from",),
    "Of the first ten trials none differs from another in dropout alone": (
        "test_optimizer::test_the_first_ten_trials_are_ten_settings_whatever_their_dropout",
    ),
    "as long as every training diverges the next has a tenth of the learning rate": (
        "test_optimizer::test_while_everything_diverges_the_next_has_a_tenth_of_the_rate",
    ),
    "The usual settings first": (
        "test_optimizer::test_seed_configs_come_first_and_in_order",
        "test_optimizer::test_the_second_and_third_trial_of_a_large_model_are_not_reckless",
        "test_optimizer::test_nothing_reckless_where_the_size_of_the_model_is_not_known",
        "test_acquisition::test_equals_botorch",
    ),
    "The recommendation is the best posterior mean": (
        "test_optimizer::test_recommendation_by_observation_and_by_posterior_mean",
    ),
    "A trial trains on a nested subset, 10 % by default": (
        "test_splits::test_proxies_are_nested_and_large_enough",
        "test_promises::test_a_tenth_is_the_default_proxy",
    ),
    "What the search costs is told before, live and at the end, in full trainings": (
        "test_tune::test_what_the_search_cost_is_the_same_everywhere",
        "test_what_training_takes::test_what_is_trained_on_and_read_is_every_token_of_the_rows",
        "test_watch::test_what_is_best_what_it_took_and_what_failed_stands_below_the_bars",
    ),
    "Whoever sets `search.trials` gets so many, and `search.preset: thorough` has 30": (
        "test_default_budget::test_what_limits_a_search",
    ),
    "unless you say otherwise it ends before it costs more than one (`search.budget`)": (
        "test_default_budget::test_a_search_that_says_nothing_costs_less_than_a_training_and_says_so",
        "test_stopping::test_a_search_ends_within_its_budget_and_goes_on_with_a_larger_one",
        "test_stopping::test_trials_of_a_search_with_a_budget_are_as_large_as_lets_five_fit_in",
    ),
    "| `default` | no |": ("test_optimizer::test_presets_by_name",),
    "| `thorough` | no |": ("test_default_budget::test_what_limits_a_search",),
    "| `numeric` | no |": ("test_optimizer::test_presets_by_name",),
    "| `language` | yes |": (
        "test_tune::test_language_models_guide_the_search",
        "test_reading::test_the_tuned_model_reads_in_its_precision_or_in_the_one_that_is_named",
    ),
    "| `paper` | yes, with a learnable token |": (
        "test_tune::test_language_models_guide_the_search",
        "test_reading::test_the_tuned_model_reads_in_its_precision_or_in_the_one_that_is_named",
        "test_features::test_the_paper_preset_runs_on_an_encoder_with_a_learnable_token",
    ),
    "Presets that read prompts write every candidate as a text": (
        "test_prompt::test_every_sentence_cites_facts_that_exist",
        "test_prompt::test_text_is_prefix_and_body_and_every_candidate_reads_differently",
    ),
    "A language model, by default the one being tuned": (
        "test_tune::test_language_models_guide_the_search",
        "test_reading::test_the_tuned_model_reads_in_its_precision_or_in_the_one_that_is_named",
        "test_trie::test_each_node_is_computed_once_and_a_refresh_computes_one_position_a_text",
    ),
    "Prompts (`lora-v1`": (
        "test_prompt::test_shipped_versions",
        "test_readme::test_the_configuration_page_names_every_setting",
        "test_readme::test_the_prompt_of_the_configuration_page_works",
    ),
    # -- compared with, requirements
    "| Loracle | a prior fitted": (
        "test_local_workers::test_a_run_survives_every_failure",
        "test_tune::test_kill_9_at_several_moments_changes_nothing",
        "test_tune::test_winner_and_standard_are_scored_on_the_same_test_items",
    ),
    "Loracle runs on Optuna's storage": ("test_study::test_optuna_alone_reads_the_journal",),
    "Training runs on CUDA, Apple GPUs and CPUs": (
        "test_device::test_auto_takes_the_fastest_device_there_is",
    ),
    "More than 70 model types were tried": (
        "test_architectures::test_every_kind_of_model_works_or_is_refused_in_one_line",
        "test_architectures::test_more_kinds_of_models_work_or_are_refused_in_one_line",
        "test_architectures::test_the_table_of_the_documentation_is_this_one",
    ),
    "Model weights are read from safetensors only": (
        "test_reader::test_only_safetensors_are_loaded",
        "test_settings::test_defaults_are_as_documented",
    ),
}

# Statements about the world, headings of what follows, and figures that a benchmark measured.
NO_PROMISE = (
    "Fine-tuning with LoRA hinges on",
    "The usual settings are often far",
    "On 2 cores this takes about",
    "On a fresh machine with Python 3.11",  # the two commands themselves are what `.ci/run` runs
    "The tests:",
    "The run folder then holds",
    "Other commands:",
    "How good is it, against which tools",
    "What these figures show and what they do not",
    "| Gemma 3 270M |",
    "| preset | reads prompts | for |",
    "| | knows LoRA |",
    "| [Optuna]",
    "| Ray Tune |",
    "| [`oumi tune`]",
    "| the paper's released code |",
    "Search quality against them",
    "Python 3.11+, Linux or macOS",
    "Licence: Apache-2.0",
    "How the code is laid out",
    "How to change it",
)


def statements(page: str) -> list[str]:
    """Sentences and table rows outside of code blocks, each in one line."""
    page = re.sub(r"```.*?```", "\n\n", page, flags=re.DOTALL)
    found: list[str] = []
    for block in re.split(r"\n\s*\n|\n(?=[|#]|\d+\. |[-*] )", page):
        text = re.sub(r"^\d+\. ", "", " ".join(block.split()))
        if not text or text.startswith("#") or re.fullmatch(r"[|: -]+", text):
            continue
        found += [text] if text.startswith("|") else re.split(r"(?<=[.!?])\s+(?=[A-Z`*\d])", text)
    return found


@cache
def functions_in(name: str) -> frozenset[str]:
    (path,) = TESTS.rglob(f"{name}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("statement", statements(README))
def test_every_statement_is_a_promise_with_a_test_or_says_why_not(statement: str) -> None:
    known = [part for part in (*PROMISES, *NO_PROMISE) if part in statement]
    assert known, "the README says something new: name its test in PROMISES"


@pytest.mark.parametrize("part", [*PROMISES, *NO_PROMISE])
def test_what_stands_here_stands_in_the_readme(part: str) -> None:
    assert any(part in statement for statement in statements(README))


@pytest.mark.parametrize("part", PROMISES)
def test_the_tests_of_a_promise_exist(part: str) -> None:
    named = [test.split("::") for test in PROMISES[part]]
    assert named
    assert [f"{file}::{test}" for file, test in named if test not in functions_in(file)] == []


# -- promises that no other file tests ----------------------------------------------------------------


def test_the_prior_is_as_small_as_it_says() -> None:
    (kilobytes,) = map(int, re.findall(r"\((\d+) kB, made by", README))
    sizes = [path.stat().st_size for path in Path(str(files("loracle.search") / "priors")).glob("*")]
    assert {round(size / 1000) for size in sizes} == {kilobytes}


def test_a_tenth_is_the_default_proxy() -> None:
    assert DataConfig(train=Path()).proxy == 0.1
