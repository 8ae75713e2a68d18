# With the released segmentors' own behaviour, for their checkpoints (tools/model_converters/convert.py).
_base_ = './fpn_sdtv3-b-srb_spikefpn_4xb6-160k_ade20k-512x512.py'
# The released SRB-B segmentor has 256 channels in neck and head (24.1 M parameters; the table's 19.2 M have 128).
model = dict(
    backbone=dict(layout='raster', norm_hidden=False),  # without the BN of the paper's formula
    neck=dict(out_channels=256),
    decode_head=dict(in_channels=[256, 256, 256, 256], channels=256, norm_cfg=dict(type='BN')))
