_base_ = './fpn_sdtv3-t-conv_8xb4-160k_ade20k-512x512.py'
# The raster layout and the dropout are those of the released segmentors; layout='channel' is the per-pixel MLP.
model = dict(backbone=dict(mixer='srb', layout='raster', drop_rate=0.2))
