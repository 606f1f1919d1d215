"""Arrays into batches: seeded shuffling, stratified splits, standardization."""
