# Fully spiking Mask R-CNN of the ST-ERF and SDT-V3 papers; backbone, mixer and the neck's widths come from the rows.
_base_ = './mask-rcnn_sdtv3-t_fpn.py'
model = dict(
    neck=dict(type='sterf_plugins.SpikeFPN'),
    rpn_head=dict(type='sterf_plugins.SpikeRPNHead'),
    roi_head=dict(
        type='sterf_plugins.SpikeStandardRoIHead',
        bbox_head=dict(type='sterf_plugins.SpikeShared2FCBBoxHead'),
        mask_head=dict(type='sterf_plugins.SpikeFCNMaskHead')))
