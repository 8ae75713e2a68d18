# YOLOX-s with an SDT-V3 backbone, and spikes in front of every convolution; all else is the stock config's.
_base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='sterf_plugins.DropInBackbone',  # spike -> convolution -> norm gives the stock backbone's three maps
        model_name='sdtv3_tiny_srb',
        levels=[dict(channels=128, stride=8), dict(channels=256, stride=16), dict(channels=512, stride=32)]),
    neck=dict(type='sterf_plugins.SpikeYOLOXPAFPN'),
    bbox_head=dict(type='sterf_plugins.SpikeYOLOXHead'))
