# Table row of arXiv:2510.21403: SDT-V3-T, conv e4.
_base_ = [
    '../_base_/models/fpn_sdtv3_spikefpn.py', '../_base_/datasets/ade20k.py', '../_base_/default_runtime_seg.py',
    '../_base_/schedules/adamw_160k_4gpu.py'
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(mixer='conv'))
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(enable=False, base_batch_size=16)
