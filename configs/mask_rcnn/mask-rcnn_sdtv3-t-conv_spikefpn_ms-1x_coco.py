# Table row of arXiv:2510.21403: SDT-V3-T, conv e4.
_base_ = [
    '../_base_/models/mask-rcnn_sdtv3_spikefpn.py', '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/adamw_1x.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(backbone=dict(mixer='conv'))
