# A shape in videos of 48x48 pixels: the experiment at a size for two CPU cores.
# Data, circles and squares of two sizes, one in each video (tools/covariant_tracking.py makes it):
#     sterf make-events data/events48 --single --shapes circle square --videos 126 --frames 33 \
#         --size 8 16 --velocity 0.2
_base_ = ['./shape_tracking.py']
steps = 16  # of the warm-up and of the scored part
model = dict(
    resolution=(48, 48),
    tracker=dict(
        classes=1,
        # 30 fields: 2 sizes x (round + 4 angles) x 3 orders, for a window of 9x9 on the halved image
        layers=[dict(out_ch=8, bank=dict(sigmas=(1.0, 1.5), ratios=(1.0, 2.0), n_angles=4, orders=1, kernel_size=9))],
        mus=(3.0, 9.0)))
dataset = dict(data_root='data/events48', t=steps, in_memory=True)
train_dataloader = dict(num_workers=0, dataset=dataset)
val_dataloader = dict(batch_size=34, num_workers=0, dataset=dataset)
test_dataloader = val_dataloader

max_epochs = 20
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
param_scheduler = dict(type='ExponentialLR', gamma=0.9, by_epoch=True)
default_hooks = dict(checkpoint=dict(interval=10))
