# Table row of arXiv:2510.21403: SDT-V3-B, SRB e4.
_base_ = [
    '../_base_/models/fpn_sdtv3_spikefpn.py', '../_base_/datasets/ade20k.py', '../_base_/default_runtime_seg.py',
    '../_base_/schedules/adamw_160k_4gpu.py'
]
# The dropout is that of the released segmentors.
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(arch='base', mixer='srb', drop_rate=0.2),
    neck=dict(in_channels=[32, 64, 128, 360]))
train_dataloader = dict(batch_size=6)
auto_scale_lr = dict(enable=False, base_batch_size=24)
