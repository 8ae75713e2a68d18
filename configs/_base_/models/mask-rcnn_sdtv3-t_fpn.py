# Mask R-CNN with an SDT-V3 tiny backbone; neck and heads as in mmdet's mask-rcnn_r50_fpn.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True, type='sterf_plugins.SDTV3', arch='tiny', mixer='conv', out_indices=(1, 2, 3, 4)),
    neck=dict(in_channels=[32, 64, 128, 192]),
    # The features have strides 4, 8, 16, 16 and the pooled extra level 32; the anchors keep their stock sizes.
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16, 16, 32], base_sizes=[4, 8, 16, 32, 64])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4, 8, 16, 16]),
        mask_roi_extractor=dict(featmap_strides=[4, 8, 16, 16])))
