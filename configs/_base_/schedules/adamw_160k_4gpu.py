# As adamw_160k.py, with the evaluation and checkpoint intervals of the released segmentors.
_base_ = './adamw_160k.py'
train_cfg = dict(val_interval=5000)
default_hooks = dict(checkpoint=dict(interval=10000))
