_base_ = './fpn_sdtv3-t-srb_shapes.py'
model = dict(backbone=dict(mixer='mlpixer'))
