"""What runs on a node: the task, its run folder, data, models, training, search, the stages."""
