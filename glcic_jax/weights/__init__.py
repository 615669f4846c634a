"""Weights of the completion network: files, runs, the store, export."""
