_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
# The stock detector; its 7x7 convolution becomes learned mixtures of affine Gaussian derivatives. frozen_stages=1 and
# norm_eval of the base act on all but the stem.
model = dict(backbone=dict(type='sterf_plugins.CovariantStemResNet', base='mmdet'))
