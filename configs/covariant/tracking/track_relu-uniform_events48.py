# No memory, one frame; fields start at random.
_base_ = ['../../_base_/tracking/events48.py']
model = dict(tracker=dict(unit='relu', init='uniform', readout='dsnt'))
