_base_ = './fpn_sdtv3-t-conv_8xb4-160k_ade20k-512x512.py'
# The dropout is that of the released segmentors.
model = dict(backbone=dict(mixer='mlpixer', drop_rate=0.2))
