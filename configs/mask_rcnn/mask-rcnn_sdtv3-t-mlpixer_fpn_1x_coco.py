_base_ = './mask-rcnn_sdtv3-t-conv_fpn_1x_coco.py'
# The raster layout and the dropout are those of the released detectors; layout='channel' is the per-pixel MLP.
model = dict(backbone=dict(mixer='mlpixer', layout='raster', drop_rate=0.2))
