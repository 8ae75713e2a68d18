_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
# As mask-rcnn_r50-cov_fpn_1x_coco.py; here the fields learn their sizes, elongations and angles too.
model = dict(
    backbone=dict(
        type='sterf_plugins.CovariantStemResNet', base='mmdet', stem=dict(learn=('sigma', 'ratio', 'angle'))))
