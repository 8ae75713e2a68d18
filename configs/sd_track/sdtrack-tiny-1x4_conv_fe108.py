# The published tracker without time: 4 integer levels; 42 pairs for each of 4 GPUs.
_base_ = ['../_base_/tracking/sd_track.py']
model = dict(variant='1x4')
train_dataloader = dict(batch_size=42, dataset=dict(T=1))
test_dataloader = dict(dataset=dict(T=1))
train_cfg = dict(max_iters=35_700)
param_scheduler = dict(milestones=[28_560])
default_hooks = dict(checkpoint=dict(interval=1_785))
