"""What a controller keeps beside its log, so that memory holds only what is in use and a start reads no old commits: a
cache of the log, written behind it, and made anew from it whenever it does not fit.
"""
