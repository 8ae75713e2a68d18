_base_ = './mask-rcnn_sdtv3-t-conv_fpn_1x_coco.py'
# The dropout is that of the released detectors.
model = dict(backbone=dict(mixer='srb', drop_rate=0.2))
