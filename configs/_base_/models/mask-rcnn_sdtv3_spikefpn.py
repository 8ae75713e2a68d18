# Fully spiking Mask R-CNN of the ST-ERF and SDT-V3 papers; backbone, mixer and the neck's widths come from the rows.
_base_ = './mask-rcnn_sdtv3-t_fpn.py'
model = dict(
    neck=dict(type='sterf_plugins.SpikeFPN'),
    rpn_head=dict(type='sterf_plugins.SpikeRPNHead'),
    roi_head=dict(
        type='sterf_plugins.SpikeStandardRoIHead',
        bbox_head=dict(type='sterf_plugins.SpikeShared2FCBBoxHead'),
        mask_head=dict(type='sterf_plugins.SpikeFCNMaskHead')))
# What the released detectors do otherwise, for the configs that end in _reference and their checkpoints.
released = dict(
    backbone=dict(layout='raster', norm_hidden=False),  # MLPixer and SRB without the BN of the paper's formula
    neck=dict(eval_levels=1),  # the neck's spikes have D=4 in training and D=1 in evaluation
    # P5 has stride 16 and P6 stride 32, but heads and RoIAlign are told 32 and 64.
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16, 32, 64])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4, 8, 16, 32]),
        mask_roi_extractor=dict(featmap_strides=[4, 8, 16, 32])))
