# Table row of arXiv:2510.21403: SDT-V3-B, conv e4.
_base_ = [
    '../_base_/models/fpn_sdtv3_spikefpn.py', '../_base_/datasets/ade20k.py', '../_base_/default_runtime_seg.py',
    '../_base_/schedules/adamw_160k_4gpu.py'
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(arch='base', mixer='conv'),
    neck=dict(in_channels=[32, 64, 128, 360]))
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(enable=False, base_batch_size=16)
