# The conv row with the separable convolutions that the rows of MLPixer and SRB have: like with like.
_base_ = ['../_base_/tracking/sd_track.py']
model = dict(sep_conv=True)
train_dataloader = dict(dataset=dict(type='sterf_plugins.VisEventDataset', data_root='data/VisEvent', samples=3_000_000))
test_dataloader = dict(dataset=dict(type='sterf_plugins.VisEventDataset', data_root='data/VisEvent'))
train_cfg = dict(max_iters=93_700)
param_scheduler = dict(milestones=[74_960])
default_hooks = dict(checkpoint=dict(interval=4_685))
