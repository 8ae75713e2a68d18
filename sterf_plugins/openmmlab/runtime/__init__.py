"""What runs beside mmengine: operators, checkpoint files, sharding, options of speed and memory."""
