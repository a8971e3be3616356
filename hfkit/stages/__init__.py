"""The stages, modules whose `main(config)` has the sections Data, Model, Trainer and Save; and pipelines of stages."""
