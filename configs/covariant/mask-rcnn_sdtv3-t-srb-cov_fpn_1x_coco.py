_base_ = '../mask_rcnn/mask-rcnn_sdtv3-t-srb_fpn_1x_coco.py'
model = dict(backbone=dict(stem=dict(type='covariant')))
