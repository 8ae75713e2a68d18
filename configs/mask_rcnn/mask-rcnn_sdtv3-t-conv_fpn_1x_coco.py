_base_ = [
    '../_base_/models/mask-rcnn_sdtv3-t_fpn.py', 'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py', 'mmdet::_base_/default_runtime.py'
]
