"""Predict whether a parallel evaluation pays, and choose the evaluation."""
