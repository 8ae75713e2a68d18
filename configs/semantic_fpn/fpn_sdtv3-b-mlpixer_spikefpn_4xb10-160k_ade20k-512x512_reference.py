# With the released segmentors' own behaviour, for their checkpoints (tools/model_converters/convert.py).
_base_ = './fpn_sdtv3-b-mlpixer_spikefpn_4xb10-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(layout='raster', norm_hidden=False),  # without the BN of the paper's formula
    decode_head=dict(norm_cfg=dict(type='BN')))
