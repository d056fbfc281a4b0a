"""The porch's rooms: one file a command of ``gridnn``; each reads its words, asks the rooms, and says what they say."""
