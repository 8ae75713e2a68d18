# Recordings of moving shapes: sterf make-event-detection data/event_shapes
dataset_type = 'sterf_plugins.EventDetDataset'
data_root = 'data/event_shapes/'
metainfo = dict(classes=('circle', 'square', 'triangle'))
window = 50_000  # microseconds before the boxes

# What the network sees: 2 channels for each of 4 parts of the window.
events = dict(type='sterf_plugins.LoadEvents', representation='histogram', parts=4)
train_pipeline = [
    events,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    events,
    dict(
        type='PackDetInputs',
        # The metric takes the true boxes and their times from here.
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances', 'time'))
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='train',  # Prophesee's arrays; 'annotations/train.json' has the same boxes as COCO's json
        data_prefix=dict(img='train'),
        names='train.txt',
        metainfo=metainfo,
        window=window,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='test',
        data_prefix=dict(img='test'),
        names='test.txt',
        metainfo=metainfo,
        window=window,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
# Recordings of Prophesee's data sets: box_filter='gen1' or '1mpx'.
val_evaluator = dict(type='sterf_plugins.EventCocoMetric')
test_evaluator = val_evaluator
