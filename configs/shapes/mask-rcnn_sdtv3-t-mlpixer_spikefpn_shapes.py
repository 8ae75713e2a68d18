# The published tiny backbone with spiking neck and heads, of the widths of the other shapes configs.
_base_ = './mask-rcnn_sdtv3-t-srb_fpn_shapes.py'
model = dict(
    backbone=dict(arch='tiny', mixer='mlpixer'),
    neck=dict(type='sterf_plugins.SpikeFPN', in_channels=[32, 64, 128, 192]),
    rpn_head=dict(type='sterf_plugins.SpikeRPNHead'),
    roi_head=dict(
        type='sterf_plugins.SpikeStandardRoIHead',
        bbox_head=dict(type='sterf_plugins.SpikeShared2FCBBoxHead'),
        mask_head=dict(type='sterf_plugins.SpikeFCNMaskHead')))
