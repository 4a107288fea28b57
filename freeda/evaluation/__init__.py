"""Measuring segmenters: data sets in their own folder layouts, mIoU as the papers count it, reports."""
