"""Datasets: from the entries of a config to the rows that a stage trains on."""
