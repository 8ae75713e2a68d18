# Table row of arXiv:2510.21403: SDT-V3-B, MLPixer e6.
_base_ = [
    '../_base_/models/mask-rcnn_sdtv3_spikefpn.py', '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/adamw_1x.py', 'mmdet::_base_/default_runtime.py'
]
# The dropout is that of the released detectors.
model = dict(
    backbone=dict(arch='base', mixer='mlpixer', ratio=6, drop_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 360]))
