# Fully spiking Semantic FPN of the ST-ERF and SDT-V3 papers: feature levels at strides 2, 4, 8 and 16, 128 channels.
_base_ = './fpn_sdtv3-t.py'
model = dict(
    backbone=dict(out_indices=(0, 1, 2, 4)),
    neck=dict(type='sterf_plugins.SpikeSegFPN', in_channels=[16, 32, 64, 192], out_channels=128),
    decode_head=dict(
        type='sterf_plugins.SpikeFPNHead',
        in_channels=[128, 128, 128, 128],
        feature_strides=[2, 4, 8, 16]))  # the true ones; the release says 4, 8, 16, 32, and only ratios count
