"""The words that the rule tagger knows, written by hand for this package.

The closed classes (articles, prepositions, pronouns and so on) are complete enough for image captions. The lists of the
open classes hold what endings and neighbours cannot tell: verbs that captions use, adjectives without the ending of an
adjective, and nouns that look like participles. A word that is in no list is a noun, unless its ending or its place
says otherwise.
"""

# Latin letters with all their accents come before this one in Unicode.
FIRST_LETTER_AFTER_LATIN = "ɐ"


def _words(text: str) -> frozenset[str]:
    """Returns the words of a text as a set."""
    return frozenset(text.split())


DETERMINERS = _words(
    """a all an another any both dozen each eight either eleven every few fifteen fifty five forty four fourteen her
    his hundred its many multiple my neither nine no numerous one our plenty seven several six some such ten the
    their these thirteen thirty this those thousand three twelve twenty two various your zero"""
)
SINGULAR_DETERMINERS = _words("a an another each either every one this")

PREPOSITIONS = _words(
    """aboard about above across after against ahead along alongside amid amidst among amongst apart around aside
    astride at atop away back backward backwards before behind below beneath beside besides between beyond by
    despite down downhill downstairs downward downwards during except for forward forwards from in indoors inside
    into like mid-air midair near nearby off on onto onwards opposite out outdoors outside over overhead past per
    since than through throughout till to together toward towards under underneath unlike until up uphill upon
    upside-down upstairs upward upwards versus via with within without"""
)

PRONOUNS = _words(
    """anyone anything everyone everything he here hers herself him himself i it itself me mine myself nobody nothing
    oneself others ours ourselves she somebody someone something theirs them themselves there they us we what which
    who whom you yours yourself"""
)
CONJUNCTIONS = _words("& and nor or")
CLAUSE_WORDS = _words(
    """although as because but how however if once so that therefore though till unless what when where whereas whereby
    whether which while whilst who whose why"""
)
AUXILIARIES = _words(
    """'re 's am are aren't be been being can can't cannot could did didn't do does doesn't don't had has have having
    is isn't may might must shall should was wasn't were weren't will won't would"""
)
ADVERBS = _words(
    """about again almost alone already also always both either else etc even ever far fast hard high instead just
    least less maybe more most much nearly never not now often once only otherwise perhaps quite rather sometimes
    somewhat soon still then thus too twice very well yet"""
)

# Adjectives that no ending tells. A colour after "in" may be a noun: "a man in black".
COLOURS = _words(
    """amber aqua beige black blond blonde blue bronze brown brunette burgundy charcoal coral cream crimson cyan ginger
    gold golden gray green grey indigo ivory khaki lavender magenta maroon mustard navy olive orange peach pink
    purple red rust scarlet silver tan teal turquoise violet white yellow"""
)
ADJECTIVES = COLOURS | _words(
    """adjacent adult aerial african alive american ancient angry antique asian asleep awake back bad bald bare
    barefoot beautiful big blank blunt blurry bottom brick bright british broad broken bumpy bushy busy calm casual
    caucasian central checkered chinese chubby circular clean clear close cloudy cold common complex concrete cool
    cotton creamy crisp crusty cubic curly curved cute cylindrical damp dark dead deep denim dense diagonal
    different digital dim dirty distant dotted double dry dull dusty elderly electric electronic elegant empty
    english entire european faint fake fallen fancy far fat female feral fewer fifth final first flat floral fluffy
    foggy formal fourth french fresh front frozen full furry fuzzy gentle german giant glossy good gooey grainy
    grassy great hairy half happy hard hazy heavy hidden high hilly hispanic horizontal hot huge human hungry icy
    indian inner intricate italian japanese juicy knit large last leafy leather left less light little lone long
    loose loud lovely low lower lush main male matte medical messy metal metallic mexican middle military misty
    modern more mossy most muddy muscular naked narrow near nearby neat new next nice nude old opaque open open-air
    opposite ornate other outer oval overcast own pale parallel plaid plain plastic pointy pregnant pretty private
    professional public quiet rainy rare raw real rear rectangular right ripe rocky rough round rugged rural rustic
    sad same sandy second shady shaggy shallow sharp shiny shirtless short shut silk similar simple single skinny
    sleepy slender slight slim small smoky smooth snowy soft solitary solo sparse spherical spicy spotted square
    steamy steep stone stormy straight stray striped strong suburban sunken sunny swollen tall tame tan-colored
    tasty thick thin third tidy tiny tired top topless torn tough traditional transparent triangular triple tropical
    typical ugly unique unknown upper upright urban various vertical vintage visible vivid warm wavy weak wet whole
    wide wild windy wintry wooden woody wool woolen worn woven young"""
)

# After these verbs comes an adjective rather than a noun: "appears healthy".
LINKING_VERBS = _words("appear appeared appears become becomes look looked looks remain remains seem seemed seems")

# Nouns that look like participles.
NOUNS_ING = _words(
    """awning bedding being beings bling building buildings carving carvings ceiling clothing crossing drawing drawings
    dressing duckling ducklings earring earrings evening fencing filling flooring frosting gathering housing icing
    king landing lettering lighting lightning marking markings meeting molding morning moulding offspring outing
    painting paintings paneling piping pudding railing railings ring rings scaffolding seasoning sibling siblings
    sling slings spring stocking stockings string strings surroundings thing things topping toppings
    wedding wing wings wiring writing"""
)
NOUNS_LY = _words("ally anomaly assembly belly bully butterfly dragonfly family fly jelly lily trolley")
NOUNS_LIKE_ADJECTIVES = _words(
    """cable cleaner cooler dish dryer goldfish jellyfish lifestyle owner stable starfish table timetable vegetable"""
)
NOUNS_ED = _words("bed bleed bobsled breed deed feed flatbed hundred red reed seabed seed shed sled speed steed weed")
# Before a noun these words describe it: "in running water". Other words in -ing have it as their object: "holding
# water".
ADJECTIVES_ING = _words(
    """alternating ascending barking billowing blooming boiling burning cascading contrasting crashing crouching crying
    dancing descending existing falling floating flowing flying glistening glowing grazing hanging jumping kneeling
    laughing matching moving neighboring oncoming overlapping protruding remaining repeating rising rolling running
    rushing screaming shining sitting sleeping sloping smiling sparkling splashing standing surrounding swimming
    swirling towering trailing walking winding yelling"""
)
# A word of `GERUNDS` before a word of `GERUND_HEADS` is part of a name: "a swimming pool", "climbing gear".
GERUNDS = _words(
    """baking bathing biking bowling boxing changing climbing cooking cutting cycling dining diving dressing drinking
    fishing hiking jumping landing living measuring meeting mixing parking playing racing reading recycling riding
    rocking rolling running sailing serving sewing shipping shopping sitting skateboarding skating skiing sleeping
    snorkeling snowboarding surfing swimming training vending wading waiting walking washing wrestling writing"""
)
GERUND_HEADS = _words(
    """area areas bag bags bench board boards boat boats book books boot boots cap caps center centre chair chairs
    counter desk dress dresses equipment field fields game gear goggles gown ground grounds hall hat hats jacket
    jackets lane lanes light lights lot lots machine machines meter meters net nets outfit pad pads pan pans pants
    path paths platform pole poles pool pools pot pots range ring rink rinks rod rods room rooms shoe shoes shorts
    slope slopes stand stands station stick sticks store suit suits table tables track tracks trail truck trucks
    trunks utensils vest vests wall"""
)
# "A tin can": what stands before "can" where it is no verb.
KINDS_OF_CANS = _words(
    """aerosol aluminium aluminum beer coke cola drink dustbin fuel garbage gas jerry juice litter metal milk oil paint
    petrol pop recycling rubbish soda soup spray steel tin trash tuna waste watering wheelie"""
)
NOT_PLURAL = _words(
    """access actress atlas bass boss brass bus business cactus campus canvas chaos chess christmas circus class cross
    dress fortress gas glass grass harness hippopotamus iris lens less lettuce mass mattress mess moss news octopus
    pass press princess process progress ross series species success tennis waitress walrus wilderness"""
)
IRREGULAR_PLURALS = _words(
    """cattle children deer feet fish geese kids knives leaves men mice oxen people police sheep teeth wolves women"""
)

# Verbs of captions in their base form, by which their form in -s is recognised. `NOUN_VERBS` are as often nouns.
NOUN_VERBS = _words(
    """anchor back balance ball bar bark bat bike bite block bloom blossom board border bowl box braid brush buckle
    button call camp cast catch chase chat cheer chew circle climb coat collar color comb contrast cook cover crack
    crash cross crowd cruise cry cut dance decorate design dig display dive dock drag dream dress drill drink drive
    drop drum edge end exercise face fall feature fence fight film fish flip fly focus fold form frame frown gaze
    glance glimpse glow grill grin grind grip groom group guard guide hammer hand head highlight hike hold hug jet
    jog jump kayak kick kiss knock label lap laugh leap leash lick light line load lock look march mark match meal
    mix name nap nest pack paddle paint pant parade park pass peak pet photograph pile pitch place plant play point
    portray pose position post print pull push race rake range reach record reflect rein rest ride ring rock rope
    row run saddle sail saw score serve shade shadow shake shape share shelter shoot shop shout shovel show shower
    sign skate skateboard sketch ski sled sleep slice slide smile smoke snack sniff snowboard spike splash spot
    spray stack stand stare start step strap stretch stripe stroll study stunt suit support surf swim swing tackle
    talk tan tap throw tie title toast top toss touch tow trail train trick tumble turn type view visit walk wash
    watch water wave work wrap wrestle zip"""
)
VERBS = NOUN_VERBS | _words(
    """abseil accentuate accompany add admire adorn affix aim align appear applaud apply approach argue arrange arrive
    ascend ask assemble assist attach attempt attend backflip backpack bake bare bathe bear become begin bend billow
    blink blow blur boast boil bounce bow brandish break breed bring browse buck build burn bury buy capture carry
    cartwheel carve cascade celebrate chomp chop cinch clap clasp clean cling close clutch coach collect come
    command compete complement compose comprise conceal connect consist construct contain continue converse convey
    crawl create creep crouch crumple cuddle culminate curve dangle dash deliver demonstrate depart depict descend
    dial dine dip disappear discuss divide dominate don dot drape draw dribble drift drip drool dry dunk dye eat
    embellish embrace emerge encircle enclose engrave enhance enjoy enter entertain erode etch evoke examine exit
    extend exude fasten feed feel fetch fill finish fit fix flank flap fling float flourish flow flutter follow ford
    freeze fry gallop gamble gather gesture get give gleam glide glisten gnaw go grab grapple grasp graze greet grow
    growl haggle hang harvest hatch haul hear heave help herd hide hit hoist hop house hover howl hurdle hurl hurtle
    illuminate imply include indicate inscribe inspect install instruct interact intersect join juggle keep kneel
    knit know land lay lead lean learn leave let lie lift listen litter live locate loom lounge lower lunge make
    maneuver mean meet melt moor mop mount mountaineer move mow munch navigate need nod nuzzle obscure observe offer
    open operate organize overlook oversee parachute parasail participate pat pause pay pedal peek peel peer perch
    perform pick picnic pierce pinch please populate pounce pour practice prance prepare prop provide punch punt
    pursue put raise rappel read rear recline relax remain repair replicate represent resemble retrieve reveal rinse
    ripple rise roam rodeo roll rollerblade rollerskate roost rotate rub rush salute say scale scatter scoot scratch
    scream scrub sculpt secure see seem sell separate set sew shatter shave shimmer shine showcase shut sing sip sit
    situate skip skydive slam slap slurp smack smell snarl snatch snuggle soak soar somersault span sparkle speak
    speckle spin splatter sport sprawl spread sprint sprout squat squeeze squint stay steer stir stop strike stroke
    strum stumble style suggest sunbathe surround suspend swallow swat sway sweep take tangle taste tattoo taunt
    teach tease tell tend text think tower travel trek trickle trim trot try tuck tug twirl unload unpack use vary
    vend volley wade wag wait wakeboard wander want waterski wear weld whistle wield wilt windsurf wink wipe write
    yell"""
)
# Irregular forms. A simple past is always a verb, and a participle behaves like a word in -ed.
PASTS = _words(
    """ate became began bent bit blew bought brought built came caught chose dove drank drew drove dug fed fell felt
    flew fought gave got grew held hid hung kept knelt knew lay leapt led left lost made met ran read rode rose said
    sang sank sat saw sent shook slept spent spoke sprang stole stood strode struck stuck swam swept swung taught
    thought threw told took tore went woke won wore wove wrote"""
)
PARTICIPLES = _words(
    """beaten begun bent bitten blown bound broken built caught chosen clad cut done drawn driven drunk dug eaten
    fallen fed flown frozen given gone gotten grown held hewn hidden hung kept known laid lain led left lined lit
    made mown paid put ridden risen sawn seen set sewn shaken shown shut split spoken spread stolen strewn strung
    stuck sung sunk swum swung taken thrown torn worn wound woven written"""
)

# Parts and sides are adjectives before a noun, "the top shelf", else nouns, "the top of the hill".
SIDES = _words("bottom center centre front half left middle rear right side top")

# Relations of more than one word.
RELATIONS = frozenset(
    tuple(line.split())
    for line in """
    next to
    close to
    adjacent to
    in front of
    in back of
    in between
    on top of
    on either side of
    on both sides of
    on each side of
    on opposite sides of
    to the left of
    to the right of
    to the side of
    on the left of
    on the right of
    on the left side of
    on the right side of
    on the far side of
    on the other side of
    on the opposite side of
    at the left of
    at the right of
    left of
    right of
    north of
    south of
    east of
    west of
    to the north of
    to the south of
    to the east of
    to the west of
    to the rear of
    at the front of
    at the back of
    in the middle of
    in the center of
    in the centre of
    at the center of
    at the top of
    at the bottom of
    inside of
    outside of
    out of
    away from
    far from
    ahead of
    up against
    as well as
    along with
    together with
    side by side with
    opposite to
    opposite of
    directly above
    directly below
    directly behind
    directly under
    just above
    just below
    just behind
    just under
    """.strip().splitlines()
)
# These relations join things and say nothing about space.
NOT_SPATIAL = frozenset({("as", "well", "as"), ("along", "with"), ("together", "with")})
SPATIAL_PREPOSITIONS = _words(
    """aboard above across against along alongside among around astride at atop behind below beneath beside between
    beyond by in inside into near on onto opposite outside over past through under underneath upon within"""
)

# Words before a full stop. No sentence ends after a title, and after an abbreviation only before a likely opener.
TITLES = _words(
    """approx ca capt cf col cpl dept dr e.g eg est fig figs fr ft gen gov hon i.e ie jr lt messrs mlle mme mr mrs ms
    mt mx no nos pp pres prof rep rev sen sgt sr st viz vol vs"""
)
ABBREVIATIONS = _words(
    """a.d a.m am apr aug ave b.c blvd bros cm co corp d.c dec e.u etc feb ft hr hrs hwy in inc jan jr jul jun kg km
    l.a lb lbs ltd mar min mm mt no nov oct oz p.m ph.d pm rd sec sep sept sq sr st u.k u.s u.s.a"""
)
OPENERS = _words(
    """a above all an and another as at behind below beside both but by each every he her his if in it its many near
    next on one or several she some that the their there these they this those three to two under we while with"""
)
