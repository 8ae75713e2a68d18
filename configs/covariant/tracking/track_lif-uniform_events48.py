# LIF neurons; fields and time constants start at random.
_base_ = ['../../_base_/tracking/events48.py']
model = dict(tracker=dict(unit='lif', init='uniform'))
