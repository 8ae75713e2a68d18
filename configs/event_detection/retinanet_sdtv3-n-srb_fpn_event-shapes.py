# RetinaNet with integer spikes on one image of a voxel grid.
_base_ = './retinanet_qkformer_fpn_event-shapes.py'
events = dict(type='sterf_plugins.LoadEvents', representation='voxel_grid', bins=5)
train_pipeline = [
    events,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    events,
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances', 'time'),
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(time_steps=1),
    backbone=dict(
        _delete_=True,
        type='sterf_plugins.TIMMBackbone',
        model_name='sdtv3_nano_srb',
        in_channels=5,
        out_indices=(1, 2, 3),
    ),
    neck=dict(in_channels=[24, 48, 96]),
)
