"""What a node's statement of its measurements is worth: its form, the challenges it answers, what is expected, the
verdict and the states that follow. Owns the rules; sans-IO: never reads a stream, writes an event or tells time.
"""
