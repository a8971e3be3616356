"""The keys that change no weight of a run: it can resume, and a finished one counts as done, if only they differ.

Evaluation is not among them: each one draws a random number, which changes the dropout that follows.
"""

from dataclasses import fields

from hfkit.config.fields import HubFields
from hfkit.config.trainer_fields import METRIC_SCHEDULES

NOT_RECORDED = ("output_dir", "resume_from_checkpoint", *(field.name for field in fields(HubFields)))
"""The output folder, resuming and the Hub: the record's config leaves them out."""
LOGGING = (
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_level"),
    *("log_level_replica", "log_on_each_node", "disable_tqdm", "sample_steps", "sample_prompts", "sample_length"),
)
SAVING = ("save_strategy", "save_steps", "save_total_limit", "save_on_each_node", "enable_jit_checkpoint")
REPORTING = (
    *("report_to", "run_name", "project", "license", "skip_memory_metrics"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
)
PROCESSES = (
    *("dataset_num_proc", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
    *("dataloader_multiprocessing_context", "ddp_timeout"),
)
VLLM = ("vllm_server_base_url", "vllm_server_timeout", "vllm_group_port", "vllm_gpu_memory_utilization")
"""The address and memory of vLLM, but not whether it samples."""
THRESHOLDS = ("max_dropped", "min_reward_accuracy")
"""Thresholds: a run that exceeds one stops before it trains."""


def neutral_keys(settings: dict) -> set[str]:
    """Return the keys that change no weight of a run with these settings.

    If evaluations choose the published checkpoint, stop the run or lower the learning rate, the save steps change
    weights too; so do the logging steps if evaluations follow them.
    """
    keys = {*NOT_RECORDED, *REPORTING, *PROCESSES, *VLLM, *THRESHOLDS}
    if not chooses_by_evaluation(settings):
        return keys | {*LOGGING, *SAVING}
    follows_logs = settings.get("eval_strategy") == "steps" and not settings.get("eval_steps")
    return keys if follows_logs else keys | {*LOGGING}


def chooses_by_evaluation(settings: dict) -> bool:
    """Return whether evaluations decide which weights a run publishes."""
    chooses = settings.get("load_best_model_at_end") or settings.get("early_stopping_patience")
    return bool(chooses) or settings.get("lr_scheduler_type") in METRIC_SCHEDULES
