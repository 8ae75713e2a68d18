# With the released segmentors' own behaviour, for their checkpoints (tools/model_converters/convert.py).
_base_ = './fpn_sdtv3-b-conv_spikefpn_1xb16-160k_ade20k-512x512.py'
# Layer scale in stages 3 and 4, of the baseline alone; ImageNet checkpoints have none, so it starts near the identity.
model = dict(backbone=dict(layer_scale=1e-6), decode_head=dict(norm_cfg=dict(type='BN')))
