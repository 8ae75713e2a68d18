# The published tiny backbone with spiking neck and head, of the widths of the other shapes configs.
_base_ = './fpn_sdtv3-t-srb_shapes.py'
model = dict(
    backbone=dict(arch='tiny', mixer='mlpixer', out_indices=(0, 1, 2, 4)),
    neck=dict(type='sterf_plugins.SpikeSegFPN', in_channels=[16, 32, 64, 192]),
    decode_head=dict(type='sterf_plugins.SpikeFPNHead', feature_strides=[2, 4, 8, 16]))
