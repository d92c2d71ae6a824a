"""Descriptions of things that few collections have, from many fields: queries that find nothing, for a calibration."""

PHRASES = (
    "sheet music", "an X-ray of a hand", "a lighthouse", "a circuit board", "a suit of armour", "a jellyfish",
    "the surface of Mars", "a chess board", "a bank note", "a camel", "a submarine", "a knitting pattern",
    "an oil rig at sea", "a stained glass window", "a tax form", "a spiral galaxy", "a plate of oysters", "a bar chart",
    "a polar bear", "a steam locomotive", "a bowling alley", "a wasp's nest", "a page of Arabic script", "a geyser",
    "an astronaut", "a microscope", "a fencing match", "a weather map", "a coral reef", "a dentist's chair",
    "a bagpipe player", "a termite mound", "a crossword puzzle", "a hot-air balloon", "an igloo", "a roulette wheel",
    "a tractor engine", "a family tree", "an anchor", "a sumo wrestler", "a beehive", "a cathedral ceiling",
    "a tarantula", "a periodic table", "a windmill", "a surfboard rack", "a fossil", "a soldering iron", "a totem pole",
    "a ballet dancer", "a nuclear power station", "a carved pumpkin", "a harp", "a snow plough", "a barcode",
    "an octopus", "a totally empty white page", "a pyramid in the desert", "a cash register", "a volcano",
)  # fmt: skip

SENTENCES = (
    "A surgeon in a green gown bends over an operating table.",
    "Two divers look at a sunken aeroplane covered with shells.",
    "The floor plan of an office shows eleven rooms and a staircase.",
    "A row of slot machines glows in a dark casino.",
    "An old woman weaves a carpet on a wooden loom.",
    "The dashboard of a lorry shows a speed of ninety.",
    "A flock of flamingos stands in a shallow salt lake.",
    "A judge in a wig reads from a thick book.",
    "Workers in masks weld the hull of a ship at night.",
    "A cross-section of the Earth with its mantle and its core.",
    "A violin maker planes the top of an instrument.",
    "A rocket leaves its pad in a cloud of white smoke.",
    "A penguin feeds its chick on a stony beach.",
    "The screen of a computer is full of green code.",
    "A street in Tokyo with neon signs in the rain.",
    "A goalkeeper in orange dives, but the ball is in the net.",
    "Fresh loaves of bread lie on the shelves of a bakery.",
    "A miner with a lamp on his helmet pushes a cart.",
    "A black and white portrait of a general with a moustache.",
    "A close-up of a snowflake shows its six branches.",
    "A shepherd drives his sheep across a stone bridge.",
    "A pile of old tyres burns behind a fence of wire.",
    "A patient lies in a large white scanner in a hospital.",
    "An auctioneer raises his hammer in front of a painting.",
    "A turtle crawls over the sand towards the sea at dawn.",
    "A hand holds a passport with many stamps.",
    "Children in costumes play a nativity on a small stage.",
    "A map of an underground railway with coloured lines.",
    "A combine harvester unloads grain into a trailer.",
    "A tightrope walker balances between two towers.",
)

TEXTS_WITHOUT_MATCH = (*PHRASES, *SENTENCES, *map(" ".join, zip(SENTENCES[::2], SENTENCES[1::2], strict=True)))
