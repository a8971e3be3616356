"""Push models and datasets to the Hugging Face Hub, pull models from it, and write their cards."""
