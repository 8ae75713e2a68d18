# RTMDet-tiny with integer spikes; the four parts of the window are channels of one image.
_base_ = './rtmdet-t_qkformer_event-shapes.py'
model = dict(
    data_preprocessor=dict(time_steps=1),
    backbone=dict(
        _delete_=True,
        type='sterf_plugins.DropInBackbone',
        model_name='sdtv3_nano_srb',
        in_channels=8,
        levels=[dict(channels=96, stride=8), dict(channels=192, stride=16), dict(channels=384, stride=32)],
    ),
)
