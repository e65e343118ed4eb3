"""SAM 2 video fine-tuning with training visualisations."""
