_base_ = './mask-rcnn_sdtv3-t-srb_fpn_shapes.py'
model = dict(backbone=dict(mixer='mlpixer'))
