"""The stages: each a module with `main(config)` and `cli(argv)`, each in the same sections."""
