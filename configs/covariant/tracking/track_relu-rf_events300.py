# No memory, one frame; fields start as the covariant bank.
_base_ = ['../../_base_/tracking/events300.py']
model = dict(tracker=dict(unit='relu', init='rf', readout='dsnt'))
