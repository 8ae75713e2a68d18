# RTMDet-tiny with an SDT-V3 backbone, and spikes in front of every convolution; all else is the stock config's.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='sterf_plugins.DropInBackbone',  # spike -> convolution -> norm gives the stock backbone's three maps
        model_name='sdtv3_tiny_srb',
        levels=[dict(channels=96, stride=8), dict(channels=192, stride=16), dict(channels=384, stride=32)],
        norm_cfg=dict(type='SyncBN')),
    neck=dict(type='sterf_plugins.SpikeCSPNeXtPAFPN'),
    bbox_head=dict(type='sterf_plugins.SpikeRTMDetSepBNHead'))
